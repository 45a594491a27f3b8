def write_page() -> None:
    """x"""

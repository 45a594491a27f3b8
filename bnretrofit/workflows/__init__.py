"""From checkpoint files to checkpoint files: what each command of the command line does, as a function."""

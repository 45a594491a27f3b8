"""`python -m bnretrofit_cli`."""

from .main import main

main()

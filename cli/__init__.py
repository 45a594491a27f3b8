"""The command line, installed as `bnretrofit_cli`."""

"""Small kernels for the tests of the command line, and the README's examples."""

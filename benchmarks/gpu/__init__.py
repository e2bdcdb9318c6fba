"""`python -m benchmarks.gpu`: what a card does with this project. __main__.py says how."""

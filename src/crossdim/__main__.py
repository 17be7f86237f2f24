"""`python -m crossdim`, and `torchrun -m crossdim` for several processes."""

from crossdim.cli import main

if __name__ == "__main__":
    main()

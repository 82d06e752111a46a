"""How good a registration is: figures of merit that add up over blocks, pictures, the verdict, the report."""

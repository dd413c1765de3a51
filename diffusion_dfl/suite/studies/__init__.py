"""Studies that train models of their own, in files of their own: no run of a table is of them."""

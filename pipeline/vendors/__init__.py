"""One file for each vendor: adding a file here adds the vendor."""

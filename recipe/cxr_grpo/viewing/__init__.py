"""What models answered, for people to look at: pages that fetch nothing, and a view for the terminal."""

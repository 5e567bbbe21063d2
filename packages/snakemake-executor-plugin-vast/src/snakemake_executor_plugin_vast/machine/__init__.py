"""What runs on a rented machine (`onboard`, `deadman`, `bucket`), and the connection to it."""

"""What this project adds to plugins that serve any workflow; each module is one plugin's hook."""

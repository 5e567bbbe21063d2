"""Generation tasks: which tasks they are, how an answer is judged, and the form of their rows."""

"""What is drawn: requests, conditions and pictures from files, completion."""

"""What results are made from: trace, diff, reproduce and accept."""

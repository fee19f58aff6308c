"""What a trained model says of rows, and the metrics of that, with the device's own engine."""

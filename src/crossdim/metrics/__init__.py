"""Numbers with confidence intervals: classification, calibration, reconstruction and features (numpy, no torch)."""

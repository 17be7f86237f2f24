"""Where features of several encoders meet."""

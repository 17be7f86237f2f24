"""The one attention, the one layer and the one encoder every model is built from."""

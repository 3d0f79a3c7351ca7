"""The terms of the synthesis loss."""

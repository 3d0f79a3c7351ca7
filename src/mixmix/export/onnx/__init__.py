"""ONNX files with integers."""

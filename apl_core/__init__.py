"""The core of APL Prefix: values, files, insertion, training; needs torch and safetensors only."""

__version__ = "0.1.0"

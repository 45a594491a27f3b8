"""Models for deployment: as an ONNX file, as a torch.export program, as the folder that timm opens."""

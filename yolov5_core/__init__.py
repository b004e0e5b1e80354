"""The YOLOv5 detector library: arrays in, arrays out; no Prefect, no bucket."""

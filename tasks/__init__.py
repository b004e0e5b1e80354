"""Stages of a retraining run: thin adapters between Prefect, the store and yolov5_core."""

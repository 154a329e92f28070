"""What runs a transformer: OpenVINO or torch."""

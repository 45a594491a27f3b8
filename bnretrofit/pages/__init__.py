"""What people look at: a checkpoint or a run as one HTML page, a plan as a picture."""

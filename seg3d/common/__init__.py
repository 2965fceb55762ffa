"""What every room needs: errors, files, devices, printing, sizes."""

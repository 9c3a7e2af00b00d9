"""What was kept and measured, as pictures and pages."""

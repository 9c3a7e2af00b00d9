"""scenes-qwen: the second embedded model, a tiny Qwen2.5-VL that sees pictures and clips of scenes."""

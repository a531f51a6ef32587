"""`python -m tflite_guard`."""

from tflite_guard.cli import main

if __name__ == "__main__":
    main()

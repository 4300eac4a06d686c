import sys

from facedetd.main import main

if __name__ == "__main__":
    sys.exit(main())

"""Generated from proto/facedetd/v1 by packaging/gen_proto.sh; do not edit."""

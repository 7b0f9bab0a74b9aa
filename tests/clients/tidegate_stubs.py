"""Makes the Python stubs of tidegate.v1 from the .proto files in a temporary folder and puts that on the import path."""

import atexit
import pathlib
import shutil
import sys
import tempfile

import grpc_tools.protoc


def load() -> None:
    root = pathlib.Path(__file__).resolve().parents[2] / "proto"
    folder = tempfile.mkdtemp(prefix="tidegate-stubs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    well_known = str(pathlib.Path(grpc_tools.protoc.__file__).parent / "_proto")
    sources = [str(path) for path in sorted((root / "tidegate" / "v1").glob("*.proto"))]
    arguments = ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}", *sources]
    if grpc_tools.protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, folder)

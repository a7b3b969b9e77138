"""Stores, lists, retrieves and deletes files over gRPC, as a program in any language would.

store.py PROTO_FOLDER HOST:PORT
"""
import hashlib
import os
import sys
import tempfile

import grpc

folder, address = sys.argv[1], sys.argv[2]
try:
    from grpc_tools import protoc
except ImportError:
    sys.exit("grpcio-tools is needed to compile the .proto file")
out = tempfile.mkdtemp()
assert protoc.main(["protoc", f"-I{folder}", f"--python_out={out}", f"--grpc_python_out={out}", "rain.proto"]) == 0
sys.path.insert(0, out)
import rain_pb2 as pb  # noqa: E402
import rain_pb2_grpc as rpc  # noqa: E402

store = rpc.StoreStub(grpc.insecure_channel(address))


def pieces(path, data, **options):
    yield pb.PutRequest(path=path, **options)
    for at in range(0, len(data), 1 << 20):
        yield pb.PutRequest(data=data[at : at + (1 << 20)])


def refused(call, code):
    try:
        list(call()) if hasattr(call, "__iter__") else call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), code, error.details())
        return error.details()
    raise AssertionError(f"not refused with {code}")


def get(path, **options):
    return b"".join(piece.data for piece in store.Get(pb.GetRequest(path=path, **options), timeout=30))


data = os.urandom(5_000_003)
answer = store.Put(pieces("/main/deep/er/file", data, make_parents=True, mode=0o600), timeout=30)
assert answer.size == len(data), answer
assert len(answer.blake3) == 32
assert get("/main/deep/er/file") == data
assert get("/main/deep/er/file", offset=1_000_000, length=12_345) == data[1_000_000:1_012_345]
assert get("/main/deep/er/file", offset=len(data)) == b""

small = b"hello"
store.Put(pieces("/main/deep/er/small", small), timeout=30)
assert get("/main/deep/er/small") == small
store.Put(pieces("/main/deep/er/small", b"", must_not_exist=False), timeout=30)
assert get("/main/deep/er/small") == b""

info = store.Stat(pb.StatRequest(path="/main/deep/er/file"), timeout=30).info
assert (info.size, info.mode, info.kind) == (len(data), 0o600, pb.FileInfo.FILE), info
names = [entry.name for page in store.List(pb.ListRequest(path="/main/deep/er"), timeout=30) for entry in page.entries]
assert names == [b"file", b"small"], names

code = grpc.StatusCode
refused(lambda: store.Put(pieces("/main/deep/er/file", b"x", must_not_exist=True), timeout=30), code.ALREADY_EXISTS)
assert get("/main/deep/er/file") == data, "a refused put changes nothing"
refused(lambda: store.Put(pieces("/main/not/there", b"x"), timeout=30), code.NOT_FOUND)
refused(lambda: get("/main/nothing"), code.NOT_FOUND)
refused(lambda: get("/novolume/nothing"), code.NOT_FOUND)
refused(lambda: get("nonsense"), code.INVALID_ARGUMENT)
refused(lambda: get("/main/deep/er/file", offset=len(data) + 1), code.OUT_OF_RANGE)
refused(lambda: store.Delete(pb.DeleteRequest(path="/main/deep"), timeout=30), code.FAILED_PRECONDITION)
store.Delete(pb.DeleteRequest(path="/main/deep", recursive=True), timeout=30)
refused(lambda: store.Stat(pb.StatRequest(path="/main/deep"), timeout=30), code.NOT_FOUND)

# Server reflection is optional in a client.
try:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
except ImportError:
    pass
print("all right")

"""A client that knows the server's address and nothing else: the contract comes by reflection.

Usage: client.py ADDRESS TOKEN IMAGE. Prints one JSON object for each answer and frame.
"""

import json
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

address, token, image = sys.argv[1:]
channel = grpc.insecure_channel(address)
database = ProtoReflectionDescriptorDatabase(channel)
pool = DescriptorPool(database)
service = pool.FindServiceByName("dodil.ignite.v1.ComputeService")
metadata = [("authorization", f"Bearer {token}")]


def show(message):
    print(json.dumps(json_format.MessageToDict(message)), flush=True)


def call(rpc, /, **fields):
    method = service.methods_by_name[rpc]
    request = json_format.ParseDict(fields, GetMessageClass(method.input_type)())
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    send = kind(
        f"/{service.full_name}/{rpc}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return send(request, metadata=metadata, timeout=60)


print(json.dumps(sorted(database.get_services())))
app = {"organization_name": "acme-corp", "app_name": "snake"}
show(call("CreateApp", organization_name="acme-corp", name="snake"))
show(call("SaveDraft", **app, code={"image": {"prebuilt": {"image_ref": image}}}))
show(call("PublishDraft", **app))
for frame in call("Invoke", **app, http={"path": "/raw"}, body="aGVsbG8="):
    show(frame)
try:
    call("GetApp", **{**app, "app_name": "nobody"})
except grpc.RpcError as error:
    print(json.dumps([error.code().name, error.details()]))

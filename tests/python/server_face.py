"""Checks of the wire contract: the server's own face (TLS, names, pings, health, reflection). Run by wire_contract.py."""

import ssl

import grpc
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import ca_client
import tls_witness
from ca_client import SERVICE, ca_pb2, expect, refused
from world import check


@check
def unknown_method_and_service(world):
    for method in [f"/{SERVICE}/DeleteCertificate", "/istio.v1.auth.Other/CreateCertificate"]:
        try:
            world.agent.channel.unary_unary(method)(b"", timeout=ca_client.DEADLINE_SECONDS)
        except grpc.RpcError as error:
            # No sentence is asked for here: nobody but a developer ever sees it.
            expect(error.code() is StatusCode.UNIMPLEMENTED, f"{method}: {error.code().name}")
        else:
            raise ca_client.Mismatch(f"{method} was answered")


@check
def health(world):
    stub = health_pb2_grpc.HealthStub(world.agent.channel)
    for service in ["", SERVICE]:
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=ca_client.DEADLINE_SECONDS).status
        expect(status == health_pb2.HealthCheckResponse.SERVING, f"{service!r} is {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}")


@check
def reflection_shows_the_same_protocol(world):
    # v1 has the messages of v1alpha, for which there is a Python package.
    call = world.agent.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [reflection_pb2.ServerReflectionRequest(list_services=""), reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)]
    listed, files = call(iter(questions), timeout=ca_client.DEADLINE_SECONDS)
    names = [service.name for service in listed.list_services_response.service]
    expect(SERVICE in names, f"only {names}")

    theirs = {}
    for encoded in files.file_descriptor_response.file_descriptor_proto:
        theirs.update({message.name: message for message in descriptor_pb2.FileDescriptorProto.FromString(encoded).message_type})
    for ours in descriptor_pb2.FileDescriptorProto.FromString(ca_pb2.DESCRIPTOR.serialized_pb).message_type:
        expect(ours.name in theirs, f"no message {ours.name}")
        expect(fields_of(ours) == fields_of(theirs[ours.name]), f"{ours.name} has {fields_of(theirs[ours.name])} instead of {fields_of(ours)}")


def fields_of(message) -> set:
    return {(field.number, field.name, field.type, field.label, field.type_name) for field in message.field}


@check
def tls_1_3_with_aes_gcm(world):
    with tls_witness.tls_connection(world.address, world.roots_file, "127.0.0.1", ssl.TLSVersion.TLSv1_3) as tls:
        tls_witness.check_negotiated(tls)


@check
def tls_1_2_as_fips_agents_speak_it(world):
    ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    with tls_witness.tls_connection(world.address, world.roots_file, "127.0.0.1", ssl.TLSVersion.TLSv1_2, ciphers, "prime256v1") as tls:
        tls_witness.check_negotiated(tls)


@check
def keepalive_pings_on_an_idle_connection(world):
    with tls_witness.tls_connection(world.address, world.roots_file, "127.0.0.1", ssl.TLSVersion.TLSv1_3) as tls:
        tls_witness.check_pings(tls, 50)


@check
def other_names_of_the_server(world):
    for name in ["localhost", "istiod.istio-system.svc"]:
        with world.new_agent(server_name=name) as agent:
            world.obtain(f"by-name-{name}", agent=agent)
        world.keep(f"serving-{name}", [tls_witness.serving_chain(world.address, name), world.roots.decode()], None)
    with world.new_agent(server_name="somebody-else.example") as agent, refused(StatusCode.UNAVAILABLE):
        agent.ask(*world.csr())

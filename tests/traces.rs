//! Traces against a real receiver: an OTLP collector's gRPC service, by the protocol's own definition. In a build without the feature the
//! endpoint is refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_traces_refuses_an_endpoint() {
    use common::process::{Serve, issuer_folder, serve_yaml};

    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let yaml = serve_yaml(folder.path(), issuer.path(), "", "tracing: { otlp: { endpoint: http://localhost:4317 } }\n");
    let (code, said) = Serve::refused(folder.path(), &yaml);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("tracing.otlp.endpoint") && said.contains("--features otlp"), "{said}");
}

#[cfg(feature = "otlp")]
mod with_the_feature {
    use std::collections::BTreeSet;

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Code, Request, Response, Status};

    use crate::common::csrs::request;
    use crate::common::grpc::{bearer, soon};
    use crate::common::process::{Serve, serve_yaml};
    use crate::common::refused::World;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
            self.0.send(request.into_inner()).map_err(|_| Status::unavailable("the test is over"))?;
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    /// A collector, and what it gets.
    async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", socket.local_addr().unwrap());
        let (send, received) = mpsc::unbounded_channel();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(send)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(socket)));
        (endpoint, received)
    }

    fn tracing(endpoint: &str, share: u8) -> String {
        format!("tracing: {{ otlp: {{ endpoint: '{endpoint}', sampleShare: {share}% }} }}\n")
    }

    fn spans(export: &ExportTraceServiceRequest) -> Vec<Span> {
        export.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    fn named<'a>(spans: &'a [Span], end: &str) -> Vec<&'a Span> {
        spans.iter().filter(|span| span.name.ends_with(end)).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_and_its_steps_continue_the_callers_trace() {
        let (endpoint, mut received) = collector().await;
        let world = World::start("", &tracing(&endpoint, 100));
        let token = world.token();
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        let wire = world.wire(None).await;
        let good = wire.ask(&[("authorization", &bearer(&token)), ("traceparent", traceparent.as_bytes())], &request()).await;
        assert_eq!(good.status.code(), Code::Ok);
        assert_eq!(
            wire.ask(&[("authorization", b"Bearer nonsense"), ("traceparent", b"nonsense")], &request()).await.status.code(),
            Code::Unauthenticated
        );

        let (mut all, mut raw, mut services) = (Vec::new(), Vec::new(), BTreeSet::new());
        while named(&all, "/CreateCertificate").len() < 2 {
            let export = soon("an export", received.recv()).await.unwrap();
            all.extend(spans(&export));
            raw.extend(export.encode_to_vec());
            let resources = export.resource_spans.iter().filter_map(|spans| spans.resource.as_ref());
            services.extend(resources.flat_map(|resource| &resource.attributes).map(|attribute| format!("{attribute:?}")));
        }
        assert!(services.iter().any(|attribute| attribute.contains("service.name") && attribute.contains("meshmint")), "{services:?}");

        let requests = named(&all, "istio.v1.auth.IstioCertificateService/CreateCertificate");
        let continued = requests.iter().find(|span| hex::encode(&span.trace_id) == TRACE).expect("the caller's trace");
        assert_eq!(hex::encode(&continued.parent_span_id), PARENT);
        let own = requests.iter().find(|span| hex::encode(&span.trace_id) != TRACE).expect("a trace of its own, where the header is nonsense");
        assert_eq!(own.parent_span_id, Vec::<u8>::new());
        let steps: Vec<_> = all.iter().filter(|span| span.parent_span_id == continued.span_id).collect();
        let names: Vec<_> = steps.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["authenticate", "admit", "check_key", "prepare", "sign", "record"]);
        for step in steps {
            assert_eq!(step.trace_id, continued.trace_id);
            let (began, ended) = (step.start_time_unix_nano, step.end_time_unix_nano);
            assert!(began <= ended && ended <= continued.end_time_unix_nano, "{step:?} in {continued:?}");
        }
        // No part of the token, no identity, no key.
        let said = String::from_utf8_lossy(&raw);
        for secret in token.split('.').chain(["nonsense", "shop", "CERTIFICATE REQUEST"]) {
            assert!(!said.contains(secret), "{secret} was sent");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_callers_flag_makes_no_more_traces_than_the_share() {
        let (endpoint, mut received) = collector().await;
        let world = World::start("", &tracing(&endpoint, 0));
        let wire = world.wire(None).await;
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        let answer = wire.ask(&[("authorization", &bearer(&world.token())), ("traceparent", traceparent.as_bytes())], &request()).await;
        assert_eq!(answer.status.code(), Code::Ok);
        drop(wire);
        // At its end it sends what waits: nothing.
        let (code, _) = world.serve.terminate();
        assert_eq!(code, Some(0));
        assert!(received.try_recv().is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_is_sent_at_the_end_and_a_collector_that_is_away_holds_nothing_up() {
        let (endpoint, mut received) = collector().await;
        let world = World::start("", &tracing(&endpoint, 100));
        let wire = world.wire(None).await;
        assert_eq!(wire.ask(&[("authorization", &bearer(&world.token()))], &request()).await.status.code(), Code::Ok);
        drop(wire);
        assert_eq!(world.serve.terminate().0, Some(0));
        assert_eq!(named(&spans(&soon("the last export", received.recv()).await.unwrap()), "/CreateCertificate").len(), 1);

        // Nobody listens there any more.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let world = World::start("", &tracing(&format!("http://{closed}"), 100));
        let wire = world.wire(None).await;
        assert_eq!(wire.ask(&[("authorization", &bearer(&world.token()))], &request()).await.status.code(), Code::Ok);
        drop(wire);
        assert_eq!(world.serve.terminate().0, Some(0));
    }

    #[test]
    fn an_endpoint_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for endpoint in ["localhost:4317", "grpc://localhost:4317", "http://user:password@localhost:4317", "http://localhost:4317/v1/traces"] {
            let (code, said) = Serve::refused(folder.path(), &serve_yaml(folder.path(), folder.path(), "", &tracing(endpoint, 1)));
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("tracing.otlp.endpoint") && !said.contains("password"), "{said}");
        }
    }
}

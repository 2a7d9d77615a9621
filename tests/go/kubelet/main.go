// The part of a kubelet that port-forwarding needs: Kubernetes' own streaming code, which every container runtime serves, behind the kubelet's path
// and TLS. Where a runtime would enter the pod's network, this dials loopback, because the tests' pods are processes of the machine.
//
//	meshmint-kubelet --listen 127.0.0.1:10250 --tls-cert-file server.pem --tls-private-key-file server-key.pem
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

type loopback struct{}

// PortForward carries bytes both ways until the process behind the port has said all.
func (loopback) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		io.Copy(connection, stream)
		connection.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, connection)
	return err
}

func main() {
	listen := flag.String("listen", "127.0.0.1:10250", "where to listen")
	certificate := flag.String("tls-cert-file", "", "the certificate")
	key := flag.String("tls-private-key-file", "", "its key")
	flag.Parse()
	http.HandleFunc("/portForward/{namespace}/{pod}", func(response http.ResponseWriter, request *http.Request) {
		options, err := portforward.NewV4Options(request)
		if err != nil {
			http.Error(response, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(response, request, loopback{}, request.PathValue("pod"), "", options, 4*time.Hour, 30*time.Second, portforward.SupportedProtocols)
	})
	log.Fatal(http.ListenAndServeTLS(*listen, *certificate, *key, nil))
}

// One pilot-agent: how it dials, how it asks, and how it tries again (security/pkg/nodeagent/caclient/providers/citadel, pkg/security/retry.go,
// pilot/pkg/grpc, pkg/backoff of istio 1.31).
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The CA that is asked.
type server struct {
	address, name string
	sources       int
	plain         bool
	tls           *tls.Config
}

func (s *server) trust(address, roots string) error {
	pem, err := os.ReadFile(roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", roots)
	}
	s.address = address
	// As pilot-agent without a certificate: it is asked for one and sends none.
	none := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	s.tls = &tls.Config{RootCAs: pool, ServerName: s.name, MinVersion: tls.VersionTLS12, GetClientCertificate: none}
	return nil
}

// source is where the connection of this number comes from, as `meshmint bench --source-addresses` has it.
func (s *server) source(number int) net.Addr {
	if s.sources < 2 {
		return nil
	}
	number %= s.sources
	rest := number/256%65000 + 1
	return &net.TCPAddr{IP: net.IPv4(127, byte(number%256), byte(rest>>8), byte(rest))}
}

// dial begins a connection at once, as grpc.Dial does, and doesn't wait for it.
func (s *server) dial(number int) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(s.tls)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: s.source(number)}).DialContext(ctx, "tcp", address)
		}),
	}
	if !s.plain {
		const window = 1 << 20
		options = append(options,
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
			grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	}
	connection, err := grpc.NewClient("passthrough:///"+s.address, options...)
	if err == nil {
		connection.Connect()
	}
	return connection, err
}

// handshaken waits until the first attempt to connect has ended, however.
func handshaken(connection *grpc.ClientConn) {
	for {
		state := connection.GetState()
		if state != connectivity.Idle && state != connectivity.Connecting || !connection.WaitForStateChange(context.Background(), state) {
			return
		}
	}
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// ask is one RPC. Like pilot-agent's it has no deadline but its caller's.
func ask(ctx context.Context, connection *grpc.ClientConn, q *question) error {
	var answer []byte
	ctx = metadata.AppendToOutgoingContext(ctx, "ClusterID", "Kubernetes")
	if err := connection.Invoke(ctx, method, &q.message, &answer, grpc.PerRPCCredentials(bearer(q.token))); err != nil {
		return err
	}
	count, err := elements(answer)
	if err == nil && count < 2 {
		err = errors.New("the answer has fewer than two elements")
	}
	return err
}

// Tries of one request on one connection, and the codes after which there is another.
const triesOfARequest = 5

func isTriedAgain(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unavailable:
		return true
	}
	return false
}

// pauseBeforeTry is the one before the try of this number, from 1: 100 ms, doubling, give or take a tenth.
func pauseBeforeTry(number int) time.Duration {
	return spread(100*time.Millisecond<<(number-1), 0.1)
}

// pauseAfterRound is the one after this many rounds failed, from 0: 0.5 s, half as much again each time up to 60 s, give or take a half.
func pauseAfterRound(number int) time.Duration {
	return spread(time.Duration(min(0.5*math.Pow(1.5, float64(number)), 60)*float64(time.Second)), 0.5)
}

func spread(pause time.Duration, share float64) time.Duration {
	return time.Duration(float64(pause) * (1 + share*(2*rand.Float64()-1)))
}

// sleep tells whether there is still time behind it.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

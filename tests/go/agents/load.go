// The three habits, and what is counted.
package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// The report; names are those of the JSON.
type report struct {
	Habit   string  `json:"habit"`
	Served  int     `json:"served"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"certificates_per_second"`
	// Until the last of a herd had its certificate; null where not every one was served.
	SecondsUntilLast *float64 `json:"seconds_until_last"`
	// From the moment at which a certificate was first wanted.
	LatencyMS latency `json:"latency_ms"`
	Tries     int     `json:"tries"`
	// Of the client that needed the most.
	MostTries int                `json:"most_tries"`
	Failures  map[string]failure `json:"failures"`
	ClientCPU float64            `json:"client_cpu_seconds"`
	Server    *serverUse         `json:"server,omitempty"`
}

type latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

type failure struct {
	Count int    `json:"count"`
	First string `json:"first"`
}

type load struct {
	options
	ca        *server
	questions []question
	next      atomic.Int64
	kept      []*grpc.ClientConn

	mutex     sync.Mutex
	latencies []time.Duration
	tries     int
	mostTries int
	last      time.Duration
	failures  map[string]failure
}

func (l *load) question(number int) *question { return &l.questions[number%len(l.questions)] }

func (l *load) run() (*report, error) {
	l.restart()
	ctx, cancel := context.WithTimeout(context.Background(), l.warmUp+l.duration)
	defer cancel()
	before, err := l.usage()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	var workers sync.WaitGroup
	habit := l.begin(ctx, &workers, began)
	if l.warmUp > 0 {
		time.Sleep(l.warmUp)
		l.restart()
		if before, err = l.usage(); err != nil {
			return nil, err
		}
		began = time.Now()
	}
	workers.Wait()
	seconds, ours := time.Since(began).Seconds(), ownCPU()-before.own
	if l.herd == 0 {
		for _, connection := range l.kept {
			connection.Close()
		}
	}
	server, err := l.serverUse(before)
	if err != nil {
		return nil, err
	}
	return l.report(habit, seconds, ours, server), nil
}

func (l *load) begin(ctx context.Context, workers *sync.WaitGroup, began time.Time) string {
	switch {
	case l.options.kept > 0:
		for number := range l.options.kept {
			connection, err := l.ca.dial(number)
			if err != nil {
				l.failed(err)
				continue
			}
			l.kept = append(l.kept, connection)
			for range l.inFlight {
				workers.Go(func() { l.onKept(ctx, connection) })
			}
		}
		return "kept"
	case l.anew > 0:
		for worker := range l.anew {
			workers.Go(func() { l.withNewConnections(ctx, worker) })
		}
		return "new"
	default:
		for client := range l.herd {
			workers.Go(func() { l.untilServed(ctx, client, began) })
		}
		return "herd"
	}
}

func (l *load) onKept(ctx context.Context, connection *grpc.ClientConn) {
	for ctx.Err() == nil {
		began := time.Now()
		err := ask(context.Background(), connection, l.question(int(l.next.Add(1))))
		l.ended(err, began, 1)
	}
}

func (l *load) withNewConnections(ctx context.Context, worker int) {
	for source := worker; ctx.Err() == nil; source += l.anew {
		began := time.Now()
		connection, err := l.ca.dial(source)
		if err == nil {
			if l.askLater > 0 {
				handshaken(connection)
				sleep(ctx, l.askLater)
			}
			err = ask(context.Background(), connection, l.question(int(l.next.Add(1))))
			connection.Close()
		}
		l.ended(err, began, 1)
	}
}

// untilServed is pilot-agent's outer loop: after a failure it closes its connection, makes a new one at once, and only then waits.
func (l *load) untilServed(ctx context.Context, client int, began time.Time) {
	tries := 0
	connection, err := l.ca.dial(client)
	if err != nil {
		l.failed(err)
		return
	}
	if l.askLater > 0 {
		handshaken(connection)
		sleep(ctx, l.askLater)
	}
	for round := 0; ; round++ {
		for number := range triesOfARequest {
			if number > 0 && !sleep(ctx, pauseBeforeTry(number)) {
				break
			}
			tries++
			if err = ask(ctx, connection, l.question(client)); err == nil {
				l.ended(nil, began, tries)
				l.keep(connection)
				return
			}
			l.failed(err)
			if !isTriedAgain(err) {
				break
			}
		}
		connection.Close()
		if ctx.Err() != nil {
			l.unserved(tries)
			return
		}
		if connection, err = l.ca.dial(client); err != nil {
			l.failed(err)
			return
		}
		sleep(ctx, pauseAfterRound(round))
	}
}

func (l *load) restart() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.latencies, l.tries, l.mostTries, l.failures = nil, 0, 0, map[string]failure{}
}

func (l *load) keep(connection *grpc.ClientConn) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.kept = append(l.kept, connection)
}

func (l *load) ended(err error, began time.Time, tries int) {
	if err != nil {
		l.failed(err)
		l.unserved(tries)
		return
	}
	took := time.Since(began)
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.latencies = append(l.latencies, took)
	l.tries += tries
	l.mostTries = max(l.mostTries, tries)
	l.last = max(l.last, took)
}

func (l *load) unserved(tries int) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.tries += tries
	l.mostTries = max(l.mostTries, tries)
}

func (l *load) failed(err error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	code := status.Code(err).String()
	seen, ok := l.failures[code]
	if !ok {
		seen.First = err.Error()
	}
	seen.Count++
	l.failures[code] = seen
}

func (l *load) report(habit string, seconds float64, ours time.Duration, server *serverUse) *report {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	slices.Sort(l.latencies)
	served := len(l.latencies)
	at := func(share float64) float64 {
		if served == 0 {
			return 0
		}
		return float64(l.latencies[int(share*float64(served-1))].Microseconds()) / 1e3
	}
	r := &report{
		Habit: habit, Served: served, Seconds: seconds, Rate: float64(served) / seconds, LatencyMS: latency{at(0.5), at(0.99), at(1)},
		Tries: l.tries, MostTries: l.mostTries, Failures: l.failures, ClientCPU: ours.Seconds(), Server: server,
	}
	if l.herd > 0 && served == l.herd {
		last := l.last.Seconds()
		r.SecondsUntilLast = &last
	}
	if server != nil && served > 0 {
		each := server.CPUSeconds * 1e6 / float64(served)
		server.PerCertificate = &each
	}
	return r
}

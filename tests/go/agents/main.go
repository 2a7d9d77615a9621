// Command agents stands for many pilot-agents: clients on grpc-go, with the options that pilot-agent gives it and with its way of trying again
// (istio 1.31), that ask a CA for certificates and tell how it went, as JSON.
//
//	agents --address 127.0.0.1:15012 --roots root-cert.pem --server-name localhost --questions questions.jsonl --herd 10000
//	agents … --kept 8 --in-flight 8 --duration 10s     requests on connections that are kept
//	agents … --new 64 --duration 10s                   so many at once, each certificate on a connection of its own
//	agents … --herd 10000                              so many at once, each on its own connection, each until it has its certificate
//
// A line of --questions is an object with a csr (PEM) and a token; they are asked in turn. Exit codes: 0, also where requests failed, which the
// report counts; 1 nothing could be asked, or a herd was not wholly served in time; 2 wrong usage.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"
)

// What was asked for.
type options struct {
	kept, inFlight, anew, herd int
	askLater, warmUp, duration time.Duration
	serverPID                  int
}

func main() {
	// All of a mesh's agents share this process's core: a fifth of it went into collecting garbage.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(4 << 30)
	var o options
	var ca server
	address := flag.String("address", "", "the CA, `HOST:PORT`")
	roots := flag.String("roots", "", "`FILE` with the roots that its certificate must chain to, PEM")
	flag.StringVar(&ca.name, "server-name", "istiod.istio-system.svc", "the name in its certificate")
	questions := flag.String("questions", "-", "`FILE` with what is asked; - reads standard input")
	flag.IntVar(&ca.sources, "source-addresses", 1, "how many client addresses, spread over 127.0.0.0/8")
	flag.BoolVar(&ca.plain, "plain", false, "grpc-go's own options instead of pilot-agent's: small windows, and a ping for each answer to size them")
	flag.IntVar(&o.kept, "kept", 0, "so many connections that are kept")
	flag.IntVar(&o.inFlight, "in-flight", 8, "requests in flight on each of them")
	flag.IntVar(&o.anew, "new", 0, "so many at once, a new connection for each certificate")
	flag.IntVar(&o.herd, "herd", 0, "so many clients at once, which try again as pilot-agent does")
	flag.DurationVar(&o.askLater, "ask-later", 0, "how long a new connection says nothing after its handshake")
	flag.DurationVar(&o.warmUp, "warm-up", 0, "load before the measurement begins; not for a herd")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "how long; a herd at most")
	flag.IntVar(&o.serverPID, "server-pid", 0, "the server's process, on this machine: reports its CPU time, once it is at rest again")
	flag.Parse()
	habits := 0
	for _, habit := range []int{o.kept, o.anew, o.herd} {
		if habit > 0 {
			habits++
		}
	}
	if habits != 1 || *address == "" || *roots == "" || flag.NArg() > 0 || o.inFlight < 1 || ca.sources < 1 || o.herd > 0 && o.warmUp > 0 || o.kept > 0 && o.askLater > 0 {
		fmt.Fprintln(os.Stderr, "agents: give --address, --roots and one of --kept, --new and --herd (--warm-up is not for --herd, --ask-later not for --kept)")
		flag.Usage()
		os.Exit(2)
	}
	report, err := run(o, &ca, *address, *roots, *questions)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agents:", err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(report); err != nil || report.Served < o.herd {
		os.Exit(1)
	}
}

func run(o options, ca *server, address, roots, questions string) (*report, error) {
	if err := ca.trust(address, roots); err != nil {
		return nil, err
	}
	asked, err := readQuestions(questions)
	if err != nil {
		return nil, err
	}
	l := &load{options: o, ca: ca, questions: asked}
	return l.run()
}

// What is asked: a request as it goes over the wire, and the token beside it.
type question struct {
	message []byte
	token   string
}

func readQuestions(path string) ([]question, error) {
	var in io.Reader = os.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	var all []question
	for lines := json.NewDecoder(bufio.NewReader(in)); ; {
		var line struct{ CSR, Token string }
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF):
			if len(all) == 0 {
				return nil, errors.New("there is nothing to ask")
			}
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, question{message: encodeRequest(line.CSR, 24*time.Hour), token: line.Token})
	}
}

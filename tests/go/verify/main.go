// Command verify is the Go world's opinion of a certificate: crypto/x509 and go-spiffe decide whether a peer would accept
// it, zlint whether its encoding and extensions hold to the RFCs. The tests run it over a sample of all that they issue.
//
//	verify --chain cert-chain.pem --roots root-cert.pem --expect-id spiffe://cluster.local/ns/demo/sa/web
//	verify --chain - --roots root-cert.pem --kind serving < cert-chain.pem
//	verify --samples DIR
//
// A sample is a folder with cert-chain.pem, root-cert.pem and, for a workload's certificate, a file `id` with the SPIFFE
// ID that it must carry. Exit codes: 0 all good, 1 a finding, 2 wrong usage.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	samples := flag.String("samples", "", "check every sample folder below `DIR`")
	chain := flag.String("chain", "", "`FILE` with the certificate and its intermediates, PEM; - reads standard input")
	roots := flag.String("roots", "", "`FILE` with the roots, PEM")
	kind := flag.String("kind", "leaf", "what the chain begins with: leaf, serving or ca")
	expectID := flag.String("expect-id", "", "the SPIFFE ID that a leaf must carry")
	importedCA := flag.Bool("imported-ca", false, "the authorities weren't made by us: don't lint them, allow them to have no URI")
	flag.Parse()

	single := *chain != "" && *roots != ""
	if flag.NArg() > 0 || single == (*samples != "") {
		fmt.Fprintln(os.Stderr, "verify: give either --samples, or both --chain and --roots")
		flag.Usage()
		os.Exit(2)
	}

	var subjects []subject
	var err error
	if single {
		subjects, err = readSingle(*chain, *roots, *kind, *expectID)
	} else {
		subjects, err = readSamples(*samples)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err)
		os.Exit(1)
	}

	checker := newChecker(*importedCA)
	failed := 0
	for _, s := range subjects {
		findings := checker.check(s)
		if len(findings) == 0 {
			fmt.Printf("ok   %s (%s)\n", s.name, s.kind)
			continue
		}
		failed++
		fmt.Printf("FAIL %s (%s)\n", s.name, s.kind)
		for _, finding := range findings {
			fmt.Printf("     %s\n", finding)
		}
	}
	fmt.Printf("verify: %d checked, %d failed\n", len(subjects), failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// subject is one chain to look at, as it was read: nothing is parsed yet, so that a broken one is a finding like others.
type subject struct {
	name     string
	kind     string
	expectID string
	chain    []byte
	roots    []byte
}

func readSingle(chainFile, rootsFile, kind, expectID string) ([]subject, error) {
	if !slices.Contains([]string{"leaf", "serving", "ca"}, kind) {
		return nil, fmt.Errorf("--kind %q is none of leaf, serving, ca", kind)
	}
	if (kind == "leaf") != (expectID != "") {
		return nil, errors.New("--expect-id belongs to --kind leaf, and --kind leaf needs it")
	}
	s := subject{name: chainFile, kind: kind, expectID: expectID}
	var err error
	if chainFile == "-" {
		s.chain, err = io.ReadAll(os.Stdin)
	} else {
		s.chain, err = os.ReadFile(chainFile)
	}
	if err != nil {
		return nil, err
	}
	if s.roots, err = os.ReadFile(rootsFile); err != nil {
		return nil, err
	}
	return []subject{s}, nil
}

// readSamples takes every folder below dir that holds files. One without a chain is an error, and so is finding none: a
// test that wrote its samples to the wrong place must not pass.
func readSamples(dir string) ([]subject, error) {
	var subjects []subject
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() != "cert-chain.pem" && entry.Name() != "root-cert.pem" && entry.Name() != "id" {
			return err
		}
		folder := filepath.Dir(path)
		if slices.ContainsFunc(subjects, func(s subject) bool { return s.name == folder }) {
			return nil
		}
		s := subject{name: folder, kind: "serving"}
		if s.chain, err = os.ReadFile(filepath.Join(folder, "cert-chain.pem")); err != nil {
			return err
		}
		if s.roots, err = os.ReadFile(filepath.Join(folder, "root-cert.pem")); err != nil {
			return err
		}
		id, err := os.ReadFile(filepath.Join(folder, "id"))
		if err == nil {
			s.kind, s.expectID = "leaf", strings.TrimSpace(string(id))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		subjects = append(subjects, s)
		return nil
	})
	if err == nil && len(subjects) == 0 {
		err = fmt.Errorf("no sample below %s", dir)
	}
	return subjects, err
}

// What a peer in the mesh asks of a certificate before it talks to its holder, and what SPIFFE asks of those that signed it.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

type checker struct {
	importedCA bool
	lints      *linter
}

func newChecker(importedCA bool) *checker {
	return &checker{importedCA: importedCA, lints: newLinter()}
}

// check returns one line for each thing that is wrong with s.
func (c *checker) check(s subject) []string {
	chain, err := parsePEM(s.chain)
	if err != nil {
		return []string{"chain: " + err.Error()}
	}
	roots, err := parsePEM(s.roots)
	if err != nil {
		return []string{"roots: " + err.Error()}
	}
	var findings []string
	add := func(format string, args ...any) { findings = append(findings, fmt.Sprintf(format, args...)) }

	first, issuers := chain[0], chain[1:]
	switch s.kind {
	case "leaf":
		// Every workload is a server in one connection and a client in the next, with the same certificate.
		for _, err := range verifyChain(first, issuers, roots, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth) {
			add("%v", err)
		}
		if err := verifySPIFFE(chain, roots, s.expectID); err != nil {
			add("go-spiffe: %v", err)
		}
	case "serving":
		for _, err := range verifyChain(first, issuers, roots, x509.ExtKeyUsageServerAuth) {
			add("%v", err)
		}
		if len(first.DNSNames) == 0 {
			add("serving certificate without a DNS name")
		}
		for _, name := range first.DNSNames {
			if err := first.VerifyHostname(name); err != nil {
				add("its own name %q: %v", name, err)
			}
		}
	case "ca":
		for _, err := range verifyChain(first, issuers, roots, x509.ExtKeyUsageAny) {
			add("%v", err)
		}
		issuers = chain
	}
	if s.kind != "ca" {
		if first.IsCA {
			add("%s certificate is a CA", s.kind)
		}
		for _, line := range c.lints.run(first) {
			add("%s: %s", s.kind, line)
		}
	}

	trustDomain := ""
	if id, err := spiffeid.FromString(s.expectID); err == nil {
		trustDomain = id.TrustDomain().Name()
	}
	for _, authority := range append(issuers[:len(issuers):len(issuers)], roots...) {
		for _, line := range c.checkAuthority(authority, trustDomain) {
			add("authority %q: %s", authority.Subject, line)
		}
	}
	return findings
}

func verifyChain(first *x509.Certificate, issuers, roots []*x509.Certificate, usages ...x509.ExtKeyUsage) []error {
	names := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth", x509.ExtKeyUsageAny: "any use"}
	var problems []error
	for _, usage := range usages {
		options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
		for _, root := range roots {
			options.Roots.AddCert(root)
		}
		for _, issuer := range issuers {
			options.Intermediates.AddCert(issuer)
		}
		if _, err := first.Verify(options); err != nil {
			problems = append(problems, fmt.Errorf("crypto/x509 for %s: %w", names[usage], err))
		}
	}
	return problems
}

func verifySPIFFE(chain, roots []*x509.Certificate, expectID string) error {
	expected, err := spiffeid.FromString(expectID)
	if err != nil {
		return fmt.Errorf("expected ID %q: %w", expectID, err)
	}
	raw := make([][]byte, len(chain))
	for i, certificate := range chain {
		raw[i] = certificate.Raw
	}
	bundle := x509bundle.FromX509Authorities(expected.TrustDomain(), roots)
	id, _, err := x509svid.ParseAndVerify(raw, bundle)
	if err != nil {
		return err
	}
	if id != expected {
		return fmt.Errorf("carries %s instead of %s", id, expected)
	}
	if id.Path() == "" {
		return errors.New("a workload's SPIFFE ID needs a path")
	}
	return nil
}

// checkAuthority holds a signing certificate to X509-SVID §4.1, §4.3 and §5.2. An empty trustDomain accepts any.
func (c *checker) checkAuthority(authority *x509.Certificate, trustDomain string) []string {
	var findings []string
	if !authority.BasicConstraintsValid || !authority.IsCA {
		findings = append(findings, "isn't a CA")
	}
	if authority.KeyUsage&x509.KeyUsageCertSign == 0 {
		findings = append(findings, "keyUsage without keyCertSign")
	}
	for _, uri := range authority.URIs {
		if uri.Scheme != "spiffe" || uri.Path != "" || uri.RawQuery != "" || uri.Fragment != "" {
			findings = append(findings, fmt.Sprintf("URI %q isn't a bare trust domain", uri))
		} else if trustDomain != "" && uri.Host != trustDomain {
			findings = append(findings, fmt.Sprintf("URI %q is of another trust domain than %s", uri, trustDomain))
		}
	}
	if c.importedCA {
		return findings
	}
	if len(authority.URIs) != 1 {
		findings = append(findings, fmt.Sprintf("%d URIs instead of one", len(authority.URIs)))
	}
	// A CA that may not sign CRLs can't be revoked from one day to the next: ours always may.
	if authority.KeyUsage&x509.KeyUsageCRLSign == 0 {
		findings = append(findings, "keyUsage without cRLSign")
	}
	return append(findings, c.lints.run(authority)...)
}

// parsePEM takes certificates only, with nothing between or behind them: the files are ours, so anything else is a fault.
func parsePEM(data []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for rest := data; strings.TrimSpace(string(rest)) != ""; {
		if !strings.HasPrefix(string(rest), "-----BEGIN CERTIFICATE-----\n") {
			return nil, errors.New("something other than certificate blocks in the PEM")
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("not PEM")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) == 0 {
		return nil, errors.New("no certificate")
	}
	return certificates, nil
}

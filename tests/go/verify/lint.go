// The rules of the RFCs, by zlint. The same authority stands in every sample, so each certificate is linted once.
package main

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// The IETF's documents and zlint's own collection of mistakes bind every certificate. Left out are the rules of clubs that a
// mesh CA isn't in and must break: the CA/Browser Forum (its baseline wants DNS names, a policy OID, revocation pointers and
// an organisation; EV, code signing and S/MIME are other kinds of certificate), the root programmes of Mozilla, Apple and
// Chrome, which build on it, and ETSI's qualified certificates for people.
var sources = lint.SourceList{
	lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC6960, lint.RFC6962, lint.RFC8813, lint.Community,
}

// One lint less: it asks whether somebody could register the name on the public Internet, which isn't what `localhost` is for.
var excluded = []string{"n_san_iana_pub_suffix_empty"}

type linter struct {
	registry lint.Registry
	seen     map[[sha256.Size]byte][]string
}

func newLinter() *linter {
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: sources, ExcludeNames: excluded})
	if err != nil {
		panic(err) // only for a name filter that doesn't compile, and there is none
	}
	return &linter{registry: registry, seen: map[[sha256.Size]byte][]string{}}
}

// run returns every finding from a notice upwards.
func (l *linter) run(certificate *x509.Certificate) []string {
	key := sha256.Sum256(certificate.Raw)
	if findings, ok := l.seen[key]; ok {
		return findings
	}
	findings := l.lint(certificate.Raw)
	l.seen[key] = findings
	return findings
}

func (l *linter) lint(der []byte) []string {
	parsed, err := zx509.ParseCertificate(der)
	if err != nil {
		return []string{"zcrypto: " + err.Error()}
	}
	findings := []string{}
	ran := 0
	for name, result := range zlint.LintCertificateEx(parsed, l.registry).Results {
		if result.Status >= lint.Pass {
			ran++
		}
		if result.Status > lint.Pass {
			findings = append(findings, fmt.Sprintf("zlint %s %s (%s) %s", result.Status, name, l.registry.CertificateLints().ByName(name).Citation, result.Details))
		}
	}
	// A filter that matches nothing would look like a clean certificate.
	if ran < 30 {
		findings = append(findings, fmt.Sprintf("zlint ran only %d lints", ran))
	}
	slices.Sort(findings)
	return findings
}

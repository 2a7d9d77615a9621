// The two messages of istio.v1.auth by hand, and a codec that leaves messages as they are.
package main

import (
	"encoding/binary"
	"errors"
	"time"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

const method = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

// bare stands in for the codec "proto", so that a request's headers are those of a generated client.
type bare struct{}

func init() { encoding.RegisterCodecV2(bare{}) }

func (bare) Name() string { return "proto" }

func (bare) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bare) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// field is one of protobuf's length-delimited fields.
func field(number uint64, value []byte) []byte {
	out := binary.AppendUvarint(nil, number<<3|2)
	out = binary.AppendUvarint(out, uint64(len(value)))
	return append(out, value...)
}

// encodeRequest makes an IstioCertificateRequest as pilot-agent does: csr = 1, validity_duration = 3, and metadata = 4 with an empty CertSigner.
func encodeRequest(csr string, validity time.Duration) []byte {
	signer := append(field(1, []byte("CertSigner")), field(2, field(3, nil))...)
	out := field(1, []byte(csr))
	out = binary.AppendUvarint(out, 3<<3)
	out = binary.AppendUvarint(out, uint64(validity/time.Second))
	return append(out, field(4, field(1, signer))...)
}

// elements counts those of an IstioCertificateResponse, whose only field is cert_chain = 1.
func elements(message []byte) (int, error) {
	count := 0
	for ; len(message) > 0; count++ {
		tag, used := binary.Uvarint(message)
		length, more := binary.Uvarint(message[max(used, 0):])
		if tag != 1<<3|2 || used <= 0 || more <= 0 || uint64(len(message)-used-more) < length {
			return 0, errors.New("the answer is not an IstioCertificateResponse")
		}
		message = message[used+more+int(length):]
	}
	return count, nil
}

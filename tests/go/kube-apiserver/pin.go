//go:build pin

// Keeps kube-apiserver in go.mod: nothing here is built, tests/setup builds the command itself from the pinned module.
package pin

import _ "k8s.io/kubernetes/cmd/kube-apiserver"

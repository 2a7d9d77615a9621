{{/* Names and labels that all objects share. */}}

{{- define "meshmint.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The release, and "meshmint" unless that is in it. Short enough for what is put behind it. */}}
{{- define "meshmint.fullname" -}}
{{- $name := include "meshmint.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The kinds of pods, as `role` of docs/configuration.md: one, or with the roles apart two. Everything that each kind has is rendered for
`merge (dict "role" KIND) $`; where .role is left out there is no difference. */}}
{{- define "meshmint.roles" -}}
{{- if not .Values.roles.apart }}
{{- list "all" | toJson }}
{{- else if ne .Values.state.store "secrets" }}
{{- fail "roles.apart needs state.store: secrets: keys on a volume are for one" }}
{{- else if gt (len (include "meshmint.fullname" .)) 42 }}
{{- /* Kubernetes puts a hash behind the name of a StatefulSet and wants a label of it. */}}
{{- fail "roles.apart puts more behind the release's name: it may have 42 characters at most (fullnameOverride)" }}
{{- else }}
{{- list "issuer" "authority" | toJson }}
{{- end }}
{{- end }}

{{/* What is put behind the release's name for what only those that lead have. Those that face the mesh have the name alone. */}}
{{- define "meshmint.suffix" -}}
{{- if eq (default "all" .role) "authority" }}-authority{{ end }}
{{- end }}

{{/* Whose rights pods have: the release's own account may lead. */}}
{{- define "meshmint.account" -}}
{{- default (include "meshmint.fullname" .) .Values.serviceAccount.name }}
{{- if eq (default "all" .role) "issuer" }}-issuer{{ end }}
{{- end }}

{{/* "true" where an istiod of this cluster is given something: these are the clusters (none means this one), and our own. */}}
{{- define "meshmint.here" -}}
{{- if or (not .clusters) (has .own .clusters) -}}
true
{{- end }}
{{- end }}

{{/* Where the Secrets are that name other clusters: for those that lead as without the roles apart, because they let them write in those clusters; for
issuers, who list all Secrets there, in a place that has nothing else. */}}
{{- define "meshmint.remoteNamespace" -}}
{{- $namespace := default .Release.Namespace .Values.app.multiCluster.namespace }}
{{- if ne (default "all" .role) "issuer" }}
{{- $namespace }}
{{- else if has .Values.roles.issuerClustersNamespace (list "" .Release.Namespace $namespace) }}
{{- fail "roles.apart with other clusters needs a roles.issuerClustersNamespace of its own: issuers list all Secrets there, and may neither have the root key nor what lets the authority write in other clusters" }}
{{- else }}
{{- .Values.roles.issuerClustersNamespace }}
{{- end }}
{{- end }}

{{/* "true" where the admin API has a port. An issuer can't change anything, so where there are others it has none. */}}
{{- define "meshmint.admin" -}}
{{- if and .Values.app.admin.enabled (ne (default "all" .role) "issuer") -}}
true
{{- end }}
{{- end }}

{{/* "true" where an authority may be imported: an issuer founds none. */}}
{{- define "meshmint.import" -}}
{{- if and .Values.app.authority.import.secret (ne (default "all" .role) "issuer") -}}
true
{{- end }}
{{- end }}

{{/* What pods are found by; it can't change while a release lives. */}}
{{- define "meshmint.selector" -}}
app.kubernetes.io/name: {{ include "meshmint.name" . }}{{ include "meshmint.suffix" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "meshmint.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "meshmint.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: certificate-authority
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The metadata of an object: its name ends in .suffix. */}}
{{- define "meshmint.metadata" -}}
{{- $root := .root -}}
name: {{ include "meshmint.fullname" $root }}{{ include "meshmint.suffix" $root }}{{ .suffix }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "meshmint.labels" $root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "meshmint.image" -}}
{{- $repository := required "image.repository must be given: where you pushed the image" .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* "true" where any number of replicas share state and ledger. */}}
{{- define "meshmint.shared" -}}
{{- if eq .Values.state.store "secrets" }}
{{- if not .Values.postgres.url }}
{{- fail "state.store: secrets needs postgres.url: replicas share their ledger, too" }}
{{- end -}}
true
{{- else if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled }}
{{- fail "several replicas need state.store: secrets: keys on a volume are for one" }}
{{- end }}
{{- end }}

{{/* "true" where something must outlive the pod on a volume of its own: keys, a ledger, or a spool. */}}
{{- define "meshmint.volume" -}}
{{- if or (not (include "meshmint.shared" .)) (eq .Values.postgres.onOutage "spool") -}}
true
{{- end }}
{{- end }}

{{/* "true" where there may be several replicas of this kind. */}}
{{- define "meshmint.several" -}}
{{- $count := eq (default "all" .role) "authority" | ternary .Values.roles.authorityReplicas .Values.replicaCount }}
{{- $scaled := and .Values.autoscaling.enabled (ne (default "all" .role) "authority") }}
{{- if and (include "meshmint.shared" .) (or $scaled (gt (int $count) 1)) -}}
true
{{- end }}
{{- end }}

{{/* Seconds between "no longer an endpoint" and SIGTERM: until every node has heard, new connections still come. */}}
{{- define "meshmint.pause" -}}
{{- if and (include "meshmint.several" .) (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) }}5{{ else }}0{{ end }}
{{- end }}

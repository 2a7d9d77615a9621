{{/* meshmint.yaml: what the values say, under what `config` adds. Paths and ports are the pod's (_pod.tpl), so `config` can't have them. */}}

{{- define "meshmint.configuration" -}}
{{- $app := .Values.app }}
{{- $ports := list (int $app.server.serving.port) (int $app.readinessProbe.port) (int $app.metrics.port) }}
{{- if $app.admin.enabled }}
{{- $ports = append $ports (int $app.admin.port) }}
{{- end }}
{{- if ne (len (uniq $ports)) (len $ports) }}
{{- fail "app.server.serving.port, app.readinessProbe.port, app.metrics.port and app.admin.port must differ" }}
{{- end }}
{{- if and (eq .Values.postgres.onOutage "spool") (not .Values.postgres.url) }}
{{- fail "postgres.onOutage: spool is for a database: give postgres.url" }}
{{- end }}
{{- $host := printf "%s.%s.svc" (include "meshmint.fullname" .) .Release.Namespace }}
{{- $names := default (list $host) $app.tls.certificateDNSNames }}
{{- if include "meshmint.suffix" . }}
{{- /* The admin port is behind a Service of its own then; --kube asks for the name that all have. */}}
{{- $names = append $names (printf "%s%s.%s.svc" (include "meshmint.fullname" .) (include "meshmint.suffix" .) .Release.Namespace) }}
{{- end }}
{{- $longest := $app.server.maxCertificateDuration }}
{{- $issuers := list }}
{{- range $app.tokens.issuers }}
{{- $issuers = append $issuers (dict "issuer" . "keys" (dict "apiServer" true)) }}
{{- end }}
{{- $accounts := list }}
{{- range splitList "," $app.server.caTrustedNodeAccounts }}
{{- with trim . }}
{{- $accounts = append $accounts . }}
{{- end }}
{{- end }}
{{- $cluster := dict "inCluster" true }}
{{- if $app.multiCluster.enabled }}
{{- $_ := set $cluster "remoteSecretsNamespace" (include "meshmint.remoteNamespace" .) }}
{{- end }}
{{- $authority := dict }}
{{- if include "meshmint.import" . }}
{{- $import := dict "certFile" "/etc/meshmint/import/ca-cert.pem" "keyFile" "/etc/meshmint/import/ca-key.pem" }}
{{- if $app.authority.import.chain }}
{{- $_ := set $import "chainFile" "/etc/meshmint/import/cert-chain.pem" }}
{{- $_ := set $import "rootFile" "/etc/meshmint/import/root-cert.pem" }}
{{- end }}
{{- $_ := set $authority "import" $import }}
{{- end }}
{{- $ledger := dict }}
{{- if .Values.postgres.url }}
{{- $postgres := dict "url" .Values.postgres.url }}
{{- if .Values.postgres.passwordSecret.name }}
{{- $_ := set $postgres "passwordFile" "/etc/meshmint/postgres-password/password" }}
{{- end }}
{{- if .Values.postgres.caSecret.name }}
{{- $_ := set $postgres "caFile" "/etc/meshmint/postgres-ca/ca.crt" }}
{{- end }}
{{- $_ := set $ledger "postgres" $postgres }}
{{- $_ := set $ledger "onOutage" .Values.postgres.onOutage }}
{{- if eq .Values.postgres.onOutage "spool" }}
{{- $_ := set $ledger "spool" (dict "path" "/var/lib/meshmint/spool.db") }}
{{- end }}
{{- else }}
{{- $_ := set $ledger "sqlite" (dict "path" "/var/lib/meshmint/ledger.db") }}
{{- end }}
{{- $state := dict "file" (dict "dir" "/var/lib/meshmint/state") }}
{{- if include "meshmint.shared" . }}
{{- $state = dict "store" "secrets" "secrets" (dict "namespace" .Release.Namespace "prefix" (include "meshmint.fullname" .)) }}
{{- end }}
{{- $written := dict
  "trustDomain" $app.tls.trustDomain
  "clusterID" $app.server.clusterID
  "server" (dict
    "listen" (printf "0.0.0.0:%d" (int $app.server.serving.port))
    "servingDNSNames" $names
    "servingLifetime" $app.tls.certificateDuration
    "drainTimeout" (printf "%ds" (int $app.server.drainSeconds)))
  "tokens" (dict "audiences" $app.tokens.audiences "issuers" $issuers "trustedNodeAccounts" $accounts)
  "cluster" $cluster
  "certificates" (dict "maxLifetime" $longest "defaultLifetime" (default $longest $app.server.defaultCertificateDuration))
  "authority" $authority
  "state" $state
  "ledger" $ledger
  "admin" (dict "socket" "/run/meshmint/admin.sock")
  "health" (dict "listen" (printf "0.0.0.0:%d" (int $app.readinessProbe.port)))
  "metrics" (dict "listen" (printf "0.0.0.0:%d" (int $app.metrics.port)))
  "log" (dict "format" $app.logFormat "level" $app.logLevel)
}}
{{- $role := default "all" .role }}
{{- if ne $role "all" }}
{{- $_ := set $written "role" $role }}
{{- end }}
{{- $controllers := dict }}
{{- if $app.controller.rootConfigMap }}
{{- $map := dict "enabled" true }}
{{- with $app.controller.configmapNamespaceSelector }}
{{- $_ := set $map "namespaceSelector" . }}
{{- end }}
{{- $_ := set $controllers "rootConfigMap" $map }}
{{- end }}
{{- if $app.tls.istiodCertificateEnable }}
{{- $istiod := dict "namespace" $app.istio.namespace "clusters" $app.tls.istiodCertificateClusters "revisions" $app.istio.revisions }}
{{- $_ := set $istiod "certificateLifetime" $app.tls.istiodCertificateDuration }}
{{- $_ := set $controllers "istiod" $istiod }}
{{- end }}
{{- if $app.cacerts.enabled }}
{{- $_ := set $controllers "cacerts" (dict "namespace" $app.istio.namespace "clusters" $app.cacerts.clusters "lifetime" $app.cacerts.duration) }}
{{- end }}
{{- /* Whoever leads does their work. */}}
{{- if and $controllers (ne $role "issuer") }}
{{- $_ := set $written "controllers" $controllers }}
{{- end }}
{{- if include "meshmint.admin" . }}
{{- $_ := set $written.admin "listen" (printf "0.0.0.0:%d" (int $app.admin.port)) }}
{{- end }}
{{- if not $authority }}
{{- $written = omit $written "authority" }}
{{- end }}
{{- toYaml (mustMergeOverwrite $written (deepCopy .Values.config)) }}
{{- end }}

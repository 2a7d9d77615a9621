{{/* The pod: one container, not root, nothing writable but the volume and the folder of the admin socket; out of the mesh that it serves. */}}

{{- define "meshmint.pod" -}}
metadata:
  labels:
    {{- include "meshmint.labels" . | nindent 4 }}
    # It can't get its certificate from itself.
    sidecar.istio.io/inject: "false"
    istio.io/dataplane-mode: none
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # The configuration is read at start only.
    checksum/configuration: {{ include "meshmint.configuration" . | sha256sum }}
    kubectl.kubernetes.io/default-container: meshmint
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "meshmint.account" . }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  # Requests under way are answered first (server.drainTimeout), then the ledger is closed.
  terminationGracePeriodSeconds: {{ add (int .Values.app.server.drainSeconds) (int (include "meshmint.pause" .)) 10 }}
  containers:
    - name: meshmint
      image: {{ include "meshmint.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/meshmint/config/meshmint.yaml]
      {{- if include "meshmint.volume" . }}
      env:
        # SQLite's short-lived files; the image has no other place where it could write.
        - { name: SQLITE_TMPDIR, value: /var/lib/meshmint }
      {{- end }}
      ports:
        {{- if ne (default "all" .role) "authority" }}
        - { name: tls-csr, containerPort: {{ .Values.app.server.serving.port }}, protocol: TCP }
        {{- end }}
        - { name: health, containerPort: {{ .Values.app.readinessProbe.port }}, protocol: TCP }
        - { name: metrics, containerPort: {{ .Values.app.metrics.port }}, protocol: TCP }
        {{- if include "meshmint.admin" . }}
        - { name: tls-admin, containerPort: {{ .Values.app.admin.port }}, protocol: TCP }
        {{- end }}
      # A start waits for the database, lists the cluster, and reads the end of the ledger: five minutes before it counts as hung.
      startupProbe:
        httpGet: { path: /livez, port: health }
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 150
      # A restart helps only a process that hangs, and costs every connection: a minute of silence first.
      livenessProbe:
        httpGet: { path: /livez, port: health }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: { path: /readyz, port: health }
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if ne (include "meshmint.pause" .) "0" }}
      # Meanwhile other nodes hear that it is no longer an endpoint; it still answers.
      lifecycle:
        preStop:
          sleep: { seconds: {{ include "meshmint.pause" . }} }
      {{- end }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - { name: config, mountPath: /etc/meshmint/config, readOnly: true }
        - { name: admin, mountPath: /run/meshmint }
        {{- if include "meshmint.volume" . }}
        - { name: data, mountPath: /var/lib/meshmint }
        {{- end }}
        {{- if include "meshmint.import" . }}
        - { name: import, mountPath: /etc/meshmint/import, readOnly: true }
        {{- end }}
        {{- if and .Values.postgres.url .Values.postgres.passwordSecret.name }}
        - { name: postgres-password, mountPath: /etc/meshmint/postgres-password, readOnly: true }
        {{- end }}
        {{- if and .Values.postgres.url .Values.postgres.caSecret.name }}
        - { name: postgres-ca, mountPath: /etc/meshmint/postgres-ca, readOnly: true }
        {{- end }}
        {{- with .Values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: { name: {{ include "meshmint.fullname" . }}{{ include "meshmint.suffix" . }} }
    # The admin API's socket; in memory, because nothing of it outlives the pod.
    - name: admin
      emptyDir: { medium: Memory, sizeLimit: 1Mi }
    {{- if and (include "meshmint.volume" .) .Values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim: { claimName: {{ .Values.persistence.existingClaim }} }
    {{- end }}
    {{- if include "meshmint.import" . }}
    # Optional, because it should be deleted after the first start. Without state meshmint doesn't start without it.
    - name: import
      secret: { secretName: {{ .Values.app.authority.import.secret }}, optional: true, defaultMode: 288 } # 0440
    {{- end }}
    {{- if and .Values.postgres.url .Values.postgres.passwordSecret.name }}
    - name: postgres-password
      secret:
        secretName: {{ .Values.postgres.passwordSecret.name }}
        defaultMode: 288 # 0440
        items: [{ key: {{ .Values.postgres.passwordSecret.key | quote }}, path: password }]
    {{- end }}
    {{- if and .Values.postgres.url .Values.postgres.caSecret.name }}
    - name: postgres-ca
      secret:
        secretName: {{ .Values.postgres.caSecret.name }}
        defaultMode: 288 # 0440
        items: [{ key: {{ .Values.postgres.caSecret.key | quote }}, path: ca.crt }]
    {{- end }}
    {{- with .Values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if include "meshmint.several" . }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "meshmint.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
{{- end }}

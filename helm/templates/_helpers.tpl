{{- define "polyad.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "polyad.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "polyad.name" .) .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "polyad.name" .) | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that find pods of one component: (list . "server") */}}
{{- define "polyad.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ include "polyad.name" $top }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "polyad.labels" -}}
{{- $top := index . 0 -}}
{{ include "polyad.selector" . }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version }}
{{- end }}

{{- define "polyad.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ default (printf "%s-%s" .Chart.AppVersion .Values.profile) $image.tag }}{{ end }}
{{- end }}

{{- define "polyad.serviceAccount" -}}
{{- default (ternary (include "polyad.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "polyad.keysSecret" -}}
{{- if .Values.keys.create }}{{ include "polyad.fullname" . }}-keys
{{- else }}{{ required "keys.existingSecret is required (or keys.create=true for random keys)" .Values.keys.existingSecret }}{{ end }}
{{- end }}

{{- define "polyad.blobsClaim" -}}
{{- default (printf "%s-blobs" (include "polyad.fullname" .)) .Values.blobs.claim.existing }}
{{- end }}

{{/* The preset of gpu.kind as YAML; empty without one. */}}
{{- define "polyad.gpuKind" -}}
{{- if and (eq .Values.profile "gpu") .Values.gpu.kind }}
{{- get (.Files.Get "files/gpu-kinds.yaml" | fromYaml) .Values.gpu.kind | toYaml }}
{{- end }}
{{- end }}

{{/* Resources of a container: (list . .Values.server.resources <GPUs>) */}}
{{- define "polyad.resources" -}}
{{- $top := index . 0 -}}{{- $given := index . 1 -}}{{- $count := index . 2 | int -}}
{{- $kind := include "polyad.gpuKind" $top | fromYaml -}}
{{- $requests := deepCopy $given.requests -}}{{- $limits := deepCopy $given.limits -}}
{{- if and (eq $top.Values.profile "gpu") (gt $count 0) }}
{{- if $kind }}
{{- $requests = merge $requests (dict "cpu" (mul $kind.cpu $count) "memory" (printf "%dGi" (mul $kind.memoryGi $count))) }}
{{- end }}
{{- $_ := set $limits $top.Values.gpu.resource $count }}
{{- end }}
{{- with $requests }}
requests: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $limits }}
limits: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "polyad.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.security.user }}
runAsGroup: {{ .Values.security.user }}
fsGroup: {{ .Values.security.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "polyad.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* A number as the server reads it: Helm holds all of them as floats, and would print large ones as 2.1e+10. */}}
{{- define "polyad.text" -}}
{{- if kindIs "slice" . }}{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq . (float64 (int64 .))) }}{{ int64 . }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{/* The registry's URL alone: what the migration needs. */}}
{{- define "polyad.registryEnvironment" -}}
- name: POLYAD_REDIS_URL
{{- if .Values.redis.trial.enabled }}
  value: redis://{{ include "polyad.fullname" . }}-redis:6379/0
{{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ required "redis.url.name is required: a Secret with the registry's URL (or redis.trial.enabled=true)" .Values.redis.url.name }}
      key: {{ .Values.redis.url.key }}
{{- end }}
- name: POLYAD_REGISTRY_NAMESPACE
  value: {{ .Values.settings.registry_namespace | quote }}
- name: POLYAD_STATE_DIR
  value: /var/lib/polyad
- name: HOME
  value: /var/lib/polyad
{{- end }}

{{/* All that servers and the learn worker share. */}}
{{- define "polyad.environment" -}}
{{ include "polyad.registryEnvironment" . }}
- name: POLYAD_BLOBS
{{- if eq .Values.blobs.kind "objectStore" }}
  value: {{ required "blobs.objectStore.url is required with blobs.kind=objectStore" .Values.blobs.objectStore.url | quote }}
{{- else }}
  value: /var/lib/polyad-blobs
{{- end }}
- name: POLYAD_API_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "polyad.keysSecret" . }}, key: {{ .Values.keys.apiKey }}}
- name: POLYAD_ADMIN_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "polyad.keysSecret" . }}, key: {{ .Values.keys.adminKey }}}
- name: POLYAD_METRICS_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "polyad.keysSecret" . }}, key: {{ .Values.keys.metricsKey }}, optional: {{ not .Values.serviceMonitor.enabled }}}
{{- range $name, $value := omit .Values.settings "registry_namespace" }}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "slice" $value) (empty $value))) }}
- name: POLYAD_{{ upper $name }}
  value: {{ include "polyad.text" $value | quote }}
{{- end }}
{{- end }}
{{- with .Values.model.hubToken }}{{ if .name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}{{ end }}
- name: HF_HOME
  value: /var/lib/polyad/hub
- name: VLLM_CACHE_ROOT
  value: /var/lib/polyad/vllm
- name: TRITON_CACHE_DIR
  value: /var/lib/polyad/triton
- name: TORCHINDUCTOR_CACHE_DIR
  value: /var/lib/polyad/inductor
{{- range $name, $value := .Values.server.environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "polyad.environmentFrom" -}}
{{- if and (eq .Values.blobs.kind "objectStore") .Values.blobs.objectStore.secret }}
envFrom:
  - secretRef: {name: {{ .Values.blobs.objectStore.secret }}}
{{- end }}
{{- end }}

{{- define "polyad.mounts" -}}
- {name: temporary, mountPath: /tmp}
- {name: shared-memory, mountPath: /dev/shm}
{{- if eq .Values.blobs.kind "claim" }}
- {name: blobs, mountPath: /var/lib/polyad-blobs}
{{- end }}
{{- if .Values.model.claim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end }}

{{- define "polyad.volumes" -}}
{{- $kind := include "polyad.gpuKind" . | fromYaml -}}
- name: temporary
  emptyDir: {sizeLimit: 10Gi}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ if $kind }}{{ mul $kind.sharedGi .Values.gpu.count }}Gi{{ else }}{{ .Values.server.sharedMemory }}{{ end }}
{{- if eq .Values.blobs.kind "claim" }}
- name: blobs
  persistentVolumeClaim: {claimName: {{ include "polyad.blobsClaim" . }}}
{{- end }}
{{- if .Values.model.claim }}
- name: models
  persistentVolumeClaim: {claimName: {{ .Values.model.claim }}, readOnly: true}
{{- end }}
{{- end }}

{{/* Where pods go: (list . "component") */}}
{{- define "polyad.placement" -}}
{{- $top := index . 0 -}}{{- $values := $top.Values -}}
{{- $kind := include "polyad.gpuKind" $top | fromYaml -}}
{{- if and (eq $values.profile "gpu") $values.gpu.runtimeClass }}
runtimeClassName: {{ $values.gpu.runtimeClass }}
{{- end }}
{{- with $values.server.priorityClass }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.server.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.server.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.server.affinity }}
affinity: {{- toYaml $values.server.affinity | nindent 2 }}
{{- else if $kind }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: nvidia.com/gpu.product, operator: In, values: {{ toJson $kind.products }}}
{{- end }}
{{- if and $values.server.topologySpread.enabled (eq (index . 1) "server") }}
topologySpreadConstraints:
{{- range $values.server.topologySpread.keys }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "polyad.selector" (list $top "server") | nindent 8 }}
    {{- if eq $values.server.kind "Deployment" }}
    matchLabelKeys: [pod-template-hash]
    {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "polyad.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

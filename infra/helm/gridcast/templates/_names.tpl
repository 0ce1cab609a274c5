{{- define "gridcast.labels" -}}
app.kubernetes.io/name: gridcast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "gridcast.selector" -}}
app.kubernetes.io/name: gridcast
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gridcast.part" -}}
app.kubernetes.io/component: {{ .part }}
{{- with .shard }}
gridcast/shard: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "gridcast.address" -}}
http://{{ .root.Release.Name }}-{{ .part }}{{ with .shard }}-{{ . }}{{ end }}:{{ (index .root.Values.parts .part).port }}
{{- end }}

{{- define "gridcast.fromSecret" -}}
valueFrom: {secretKeyRef: {name: {{ .root.Values.secret }}, key: {{ .key }}}}
{{- end }}

{{- define "gridcast.environment" -}}
- name: GRIDCAST_DATABASE_URL
  {{- include "gridcast.fromSecret" (dict "root" .root "key" "database-url") | nindent 2 }}
- name: GRIDCAST_TOKENS
  {{- include "gridcast.fromSecret" (dict "root" .root "key" "tokens") | nindent 2 }}
- name: GRIDCAST_MLFLOW_URL
{{- if eq .part "mlflow" }}
  {{- include "gridcast.fromSecret" (dict "root" .root "key" "mlflow-database-url") | nindent 2 }}
{{- else }}
  value: {{ include "gridcast.address" (dict "root" .root "part" "mlflow") }}
{{- end }}
{{- if eq .part "prefect" }}
- name: GRIDCAST_PREFECT_DATABASE_URL
  {{- include "gridcast.fromSecret" (dict "root" .root "key" "prefect-database-url") | nindent 2 }}
{{- end }}
- name: GRIDCAST_PREFECT_URL
  value: {{ include "gridcast.address" (dict "root" .root "part" "prefect") }}
- name: GRIDCAST_PREDICTOR_URL
  value: {{ include "gridcast.address" (dict "root" .root "part" "predictor") }}
- name: GRIDCAST_ALLOWED_HOSTS
  value: "{{ range $name := keys .root.Values.parts | sortAlpha }}{{ $.root.Release.Name }}-{{ $name }},{{ end }}{{ with .shard }}{{ $.root.Release.Name }}-predictor-{{ . }},{{ end }}localhost{{ with .root.Values.allowedHosts }},{{ . }}{{ end }}"
{{- with .shard }}
- name: GRIDCAST_SHARD
  value: {{ printf "%d/%d" (int .) (int $.root.Values.shards) | quote }}
{{- end }}
{{- if eq .part "router" }}
- name: GRIDCAST_SHARD_ADDRESSES
  value: "{{ range $n := untilStep 1 (int (add1 .root.Values.shards)) 1 }}{{ if gt $n 1 }},{{ end }}{{ $n }}/{{ $.root.Values.shards }}={{ include "gridcast.address" (dict "root" $.root "part" "predictor" "shard" $n) }}{{ end }}"
# Between router and predictors is the network of the cluster.
- name: GRIDCAST_TLS_IN_FRONT
  value: "true"
{{- end }}
{{- range $name, $value := .root.Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "fwdllm.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fwdllm.labels" -}}
{{ include "fwdllm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "fwdllm.claim" -}}
{{ .Values.folder.claim | default .Release.Name }}
{{- end }}

"""fwdllm_server"""

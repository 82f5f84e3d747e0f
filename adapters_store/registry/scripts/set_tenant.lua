local current = lookup(TENANTS)
request.record.created = current and current.created or request.record.created
publish('tenant_set', TENANTS, 'tenant', request.record)
return answer('ok')
